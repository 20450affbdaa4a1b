;; Has ten memories. Refused at load: a guest may have eight.
(memory 0) (memory 0) (memory 0) (memory 0) (memory 0) (memory 0) (memory 0) (memory 0) (memory 0)
(func $provoked (param i32))
