// What galleries and tables share: the number of a cell, and an order in which what is not a number comes last.
'use strict';

const asNumber = text => Number((text ?? 'nan').replace('inf', 'Infinity').replace('nan', 'NaN'));

// Sorted by `value`, upwards or, with the sign -1, downwards; ties go by name.
function inOrder(items, value, name, sign) {
  const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  const keyed = items.map(item => [value(item), name(item), item]);
  keyed.sort(([a, nameA], [b, nameB]) =>
    Number.isNaN(a) - Number.isNaN(b) || sign * compare(a, b) || compare(nameA, nameB));
  return keyed.map(([, , item]) => item);
}
