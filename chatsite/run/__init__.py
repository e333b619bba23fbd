"""All processes of a site on one machine: what starts, in which order, and how each is stopped."""
