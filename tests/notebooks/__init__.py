"""The tests of each notebook: its mathematics, and the breaks of the library that it must notice."""
