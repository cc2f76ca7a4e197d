"""The figures of a report, each with a sentence that says what it shows."""

from energax.report.figures.charts import chain_diagnostics as chain_diagnostics
from energax.report.figures.charts import coordinate_histograms as coordinate_histograms
from energax.report.figures.charts import energy_histograms as energy_histograms
from energax.report.figures.charts import likelihood_curves as likelihood_curves
from energax.report.figures.charts import pairs as pairs
from energax.report.figures.charts import training_curves as training_curves
from energax.report.figures.landscape import landscape as landscape
from energax.report.figures.pictures import as_images as as_images
from energax.report.figures.pictures import before_after as before_after
from energax.report.figures.pictures import filters as filters
from energax.report.figures.pictures import image_grid as image_grid
from energax.report.figures.pictures import unusual_images as unusual_images
