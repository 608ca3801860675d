-- single-row UPDATE | 1.4 | 0.60
\set id random(1, :users)
UPDATE users SET age = age + 1 WHERE id = :id;
