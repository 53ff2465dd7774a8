"""One case as data: arrays under names, the table of cases, conventions."""
