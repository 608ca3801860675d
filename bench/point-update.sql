\set id random(1, :rows)
UPDATE posts SET score = score + 1 WHERE id = :id;
