"""How much scores suffer from bad images, missing cameras, wrong calibration and poses, and other frame rates."""
