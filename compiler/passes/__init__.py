"""The passes, one function and one module each; `compiler.driver` runs them in order."""
