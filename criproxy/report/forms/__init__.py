"""From figures to sections, charts, and reports in HTML and Markdown."""
