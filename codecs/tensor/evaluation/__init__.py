"""What the tensor codec is measured by: other ways to store a model, and the model that comes back."""
