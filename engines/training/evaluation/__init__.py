"""Figures that a sceptical reader would accept: intervals, ceilings, alarms over time, and the page that shows them."""
