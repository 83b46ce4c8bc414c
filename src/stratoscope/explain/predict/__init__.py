"""Times on machines that are not here, and of layers that were never measured."""
