"""The versions loaded in this process: one served model per deployment, within a memory limit."""
