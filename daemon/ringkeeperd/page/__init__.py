"""The status page: a ring at a glance, in a browser. Loaded when somebody first looks."""
