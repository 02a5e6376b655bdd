"""One file a family. A model does not know how it is trained, nor what it is measured by."""
