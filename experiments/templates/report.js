// The gallery: dividers, differences, sorting, filtering, and links from the scatter plot.
{
  const cards = [...document.querySelectorAll('.card')];
  const rowOf = new Map(cards.map(card => [card, rows.find(r => r.id === card.dataset.row)]));
  const find = id => document.getElementById(id);

  const split = (stage, percent) => {
    const slider = stage.querySelector('input');
    slider.value = percent;
    slider.setAttribute('aria-valuetext', `${slider.value} % clean`);
    stage.style.setProperty('--split', slider.value + '%');
  };

  for (const stage of document.querySelectorAll('.pair')) {
    const slider = stage.querySelector('input');
    const follow = event => {
      const box = stage.getBoundingClientRect();
      split(stage, 100 * (event.clientX - box.left) / box.width);
    };
    stage.addEventListener('pointerdown', event => {
      if (event.button || slider.disabled) return;
      stage.setPointerCapture(event.pointerId);
      follow(event);
      slider.focus({preventScroll: true});
      event.preventDefault();
    });
    stage.addEventListener('pointermove', event => stage.hasPointerCapture(event.pointerId) && follow(event));
    slider.addEventListener('input', () => split(stage, slider.value));
    split(stage, 50);
  }

  const setDifference = (card, on) => {
    const toggle = card.querySelector('.toggle');
    if (!toggle) return;
    toggle.setAttribute('aria-pressed', on);
    card.querySelector('.stage').classList.toggle('differing', on);
    card.querySelector('.difference').hidden = !on;
    card.querySelector('input').disabled = on;
  };
  for (const card of cards) {
    const toggle = card.querySelector('.toggle');
    toggle?.addEventListener('click', () => setDifference(card, toggle.getAttribute('aria-pressed') !== 'true'));
  }
  const all = find('all-differences');
  all?.addEventListener('click', () => {
    const on = all.getAttribute('aria-pressed') !== 'true';
    all.setAttribute('aria-pressed', on);
    for (const card of cards) setDifference(card, on);
  });

  const sort = () => {
    const key = find('sort').value, sign = find('direction').dataset.direction === 'ascending' ? 1 : -1;
    const value = card => {
      const row = rowOf.get(card);
      return key === 'name' ? row.name : key === 'size' ? Math.abs(row.value('change')) : row.value(key);
    };
    document.querySelector('.grid').append(...inOrder(cards, value, card => rowOf.get(card).name, sign));
  };

  const filter = () => {
    const wanted = find('filter').value.trim().toLocaleLowerCase(), side = find('side')?.value;
    let shown = 0;
    for (const card of cards) {
      const row = rowOf.get(card), change = row.value('change');
      const onSide = !side || (side === 'raised' ? change > 0 : change < 0);
      card.hidden = !(onSide && row.name.toLocaleLowerCase().includes(wanted));
      shown += !card.hidden;
    }
    find('shown').textContent = `${shown} shown`;
    find('nothing').hidden = shown > 0;
  };

  if (cards.length) {
    find('sort').addEventListener('change', sort);
    find('direction').addEventListener('click', ({currentTarget: button}) => {
      const next = button.dataset.direction === 'ascending' ? 'descending' : 'ascending';
      button.dataset.direction = next;
      button.textContent = next === 'ascending' ? 'Ascending' : 'Descending';
      sort();
    });
    find('filter').addEventListener('input', filter);
    find('side')?.addEventListener('change', filter);
    document.querySelector('.controls').addEventListener('submit', event => event.preventDefault());
  }

  // A link must reach its target even if a filter or a closed section hides it.
  const reveal = () => {
    const target = find(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.hidden) {
      find('filter').value = '';
      if (find('side')) find('side').value = '';
      filter();
    }
    const closed = target.closest('details:not([open])');
    if (closed) closed.open = true;
    target.scrollIntoView({block: 'nearest'});
  };
  addEventListener('hashchange', reveal);
  // The same link twice changes no hash, but a filter may have come in between.
  addEventListener('click', event => event.target.closest?.('a[href^="#"]') && setTimeout(reveal));
  if (location.hash) reveal();
}
