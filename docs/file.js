// A browser lets no page that was opened from a file start the worker that searches: show no search there.
if (location.protocol === "file:")
  for (const each of document.querySelectorAll("label[for=__search], [data-md-component=search]"))
    each.style.display = "none";
