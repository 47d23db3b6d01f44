"""Pictures of what experts do, from the reports alone."""
