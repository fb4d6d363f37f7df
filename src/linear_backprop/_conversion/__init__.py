"""Rules put on functions, on blocks of code and on models."""
