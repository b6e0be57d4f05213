// Tables that sort at a click on a heading, and show the rows that their form asks for.
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return 'value' in cell.dataset ? asNumber(cell.dataset.value) : cell.dataset.text ?? cell.textContent.trim();
  };
  const name = row => heads.map((_, column) => key(row, column)).filter(part => typeof part === 'string').join(' ');
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const next = head.getAttribute('aria-sort') === 'ascending' ? 'descending' : 'ascending';
      for (const other of heads) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', next);
      body.append(...inOrder([...body.rows], row => key(row, column), name, next === 'ascending' ? 1 : -1));
    });
  });

  const form = document.querySelector(`form[data-table="${table.id}"]`);
  if (!form) continue;
  const filter = () => {
    const words = form.querySelector('input').value.trim().toLocaleLowerCase();
    const choices = [...form.querySelectorAll('select')].filter(select => select.value);
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !(name(row).toLocaleLowerCase().includes(words)
        && choices.every(select => key(row, select.dataset.column) === select.value));
      shown += !row.hidden;
    }
    form.querySelector('output').textContent = `${shown} of ${body.rows.length} rows`;
  };
  form.hidden = false;
  form.addEventListener('input', filter);
  form.addEventListener('change', filter);
  form.addEventListener('reset', () => setTimeout(filter));
  form.addEventListener('submit', event => event.preventDefault());
  filter();
}
