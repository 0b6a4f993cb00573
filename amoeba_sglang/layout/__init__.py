"""Where tokens live and who steps together: pure functions of degrees, ranks and slots."""
