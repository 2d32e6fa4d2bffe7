"""What is heard: distortions of speech that gradients follow, for training and for an encoder that refines."""
