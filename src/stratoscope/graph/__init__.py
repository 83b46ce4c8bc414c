"""What a model is: layers, shapes, work and signatures."""
