-- point SELECT by key | 1.9 | 0.40
\set id random(1, :users)
SELECT name, region FROM users WHERE id = :id;
