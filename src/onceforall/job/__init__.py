"""The whole job: from a folder of images to verified models and a report, step by step."""
