"""The report of a run, one offline HTML file."""
