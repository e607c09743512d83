"""Models side by side on the same images and questions: asked, marked, shown as a page or live."""
