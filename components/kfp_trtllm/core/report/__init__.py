"""Reports for people: self-contained HTML that opens in the KFP UI and from disk, and Markdown for logs."""
