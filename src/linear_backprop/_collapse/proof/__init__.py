"""The proof that an operation is affine in each sample."""
