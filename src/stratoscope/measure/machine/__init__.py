"""What this machine can do: probes of memory, arithmetic, the system and devices, run interleaved within a budget."""
