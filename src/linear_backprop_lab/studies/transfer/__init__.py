"""Do adversarial examples crafted with a linear backward pass fool other networks better?"""
