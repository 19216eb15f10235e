"""The page: people choose between clips at /label and watch the run at /run; needs nothing but the run directory."""
