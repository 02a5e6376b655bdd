"""The shared library of the course. Each file holds one idea; a model does not know how it is trained."""

__version__ = "0.1.0"
