"""What the tests ask of a page by scripts of their own, in the browser."""

FIGURES = """() => [...document.querySelectorAll('figure')].map((figure) => {
  const picture = figure.querySelector('img');
  const size = (node) => {
    const box = node.getBoundingClientRect();
    return [box.left, box.right, box.width, box.height];
  };
  return {
    natural: [picture.naturalWidth, picture.naturalHeight],
    hidden: picture.hidden,
    seen: (picture.hidden ? [...figure.querySelectorAll('svg')] : [picture]).map(size),
    caption: figure.querySelector('figcaption').textContent,
  };
})"""
"""The size of each figure's picture, and (left, right, width, height) of what is seen of it."""

CUT = """() => [...document.querySelectorAll('svg')].flatMap((plot) => {
  const whole = plot.getBoundingClientRect();
  const inside = (part) => part.left >= whole.left - 1 && part.right <= whole.right + 1
    && part.top >= whole.top - 1 && part.bottom <= whole.bottom + 1;
  return [...plot.querySelectorAll('text')]
    .filter((text) => !inside(text.getBoundingClientRect())).map((text) => text.textContent);
})"""
"""Words in drawings that are not wholly inside them."""

LEVELS = "[...document.querySelectorAll('h1, h2, h3, h4')].map((head) => Number(head.tagName[1]))"

UNNAMED = """() => {
  const labels = (node) => [...(node.labels ?? [])].map((label) => label.textContent).join(' ');
  const name = (node) => node.getAttribute('aria-label') || labels(node) || node.textContent;
  return [...document.querySelectorAll('a, button, select, input, [role], [tabindex]')]
    .filter((node) => !name(node).trim() && node.getAttribute('role') !== 'status')
    .map((node) => node.outerHTML.slice(0, 90));
}"""
"""Controls and regions without a name for those who do not see them."""

CONTRAST = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((v) => Number(v) / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement, style = getComputedStyle(node);
    if (!text.data.trim() || node.tagName === 'SCRIPT' || !node.getClientRects().length) continue;
    const colour = node.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [most, least] = [light(colour), light(ground(node))].sort((a, b) => b - a);
    found.push([(most + 0.05) / (least + 0.05), text.data.trim().slice(0, 30), colour]);
  }
  return found;
}"""
"""(contrast by WCAG 2.2, words, colour) of all text that is seen."""

REACHABLE = """() => {
  const all = 'a[href], button, select, input, svg[tabindex], .wide';
  return [...document.querySelectorAll(all)].filter((node) => node.getClientRects().length).length;
}"""

FOCUSED = """() => {
  const node = document.activeElement, style = getComputedStyle(node);
  const number = [...document.querySelectorAll('*')].indexOf(node);
  const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  return [node === document.body ? null : number, outlined];
}"""
"""(the number of the element that has the focus, whether that shows)."""
