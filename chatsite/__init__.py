"""The site: settings, entry points, and the processes of `serve` (`run`). The product itself is `messaging`."""
