"""What takes uploads in: files kept on disk, one write at a time into each collection, and the call into ingest."""
