"""Commands about experiments: declare them in the project file, then plan, start, read and conclude them."""
