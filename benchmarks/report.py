def write_pages(a,b): pass
