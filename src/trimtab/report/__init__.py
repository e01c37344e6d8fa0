"""Self-contained HTML with SVG plots of its own, and terminal tables: from figures to pages."""
