;; Its start-up code makes a table of more elements than GUEST_TABLE_ELEMENTS, and traps when it is denied. Refused at load.
(table 1 funcref)
(func $f (if (i32.eq (table.grow 0 (ref.null func) (i32.const 100000)) (i32.const -1)) (then unreachable)))
(start $f)
(func $provoked (param i32))
