"""The commands of training, each a module with ``add_arguments`` and ``run``."""
