"""What training is made of: options, data order, lessons, gradients, checkpoints, logs."""
