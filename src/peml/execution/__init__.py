"""Where runs execute: in this process, in local processes, on a Ray cluster."""
