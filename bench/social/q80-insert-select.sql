-- INSERT ... SELECT of the likes, colocated | 0.39
INSERT INTO likes_copy SELECT * FROM likes;
