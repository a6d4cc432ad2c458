"""From files to pixels: decoded, cropped, coloured, mixed."""
