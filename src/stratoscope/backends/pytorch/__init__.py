"""PyTorch: loads, runs and traces modules, down to the primitives of oneDNN and MKL and the kernels of a GPU."""
