-- token: the number by which an answer finds the table entry that waits for it. `taken` is that table, `last` the number before.
return function(last, taken)
  repeat
    last = last % 0xffffffff + 1
  until not taken[last]
  return last
end
