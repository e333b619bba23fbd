"""The site: settings, entry points and the supervisor. The product itself is `messaging`."""
