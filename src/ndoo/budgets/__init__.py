"""Where spent daily budgets are kept: a directory of one replica, or a Redis that many share."""
