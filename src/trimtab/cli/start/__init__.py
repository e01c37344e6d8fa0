"""Commands to begin with: `init`, `doctor`, `version`, `demo` and `simulate`."""
