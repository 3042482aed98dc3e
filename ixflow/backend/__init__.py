"""The paths at which users of pipedag import its backend classes; each is in `ixflow` too."""
