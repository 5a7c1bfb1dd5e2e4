"""Generated from proto/ndoo/v1 by `make proto`."""
