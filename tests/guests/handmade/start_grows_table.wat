;; Its start-up code makes a table of more elements than GUEST_TABLE_ELEMENTS, which refuses it at load.
(table 1 funcref)
(func $f (drop (table.grow 0 (ref.null func) (i32.const 100000))))
(start $f)
(func $provoked (param i32))
