"""Training of the image codec: its Lightning module, photographs, validation, and what export needs."""
