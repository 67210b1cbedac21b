package {{ package }}

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.Color
import android.os.Bundle
import android.widget.TextView
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import kotlin.concurrent.thread

private const val MODEL = "{{ asset }}"
private const val HEIGHT = {{ signature.inputs[0].shape[1] }}
private const val WIDTH = {{ signature.inputs[0].shape[2] }}

/** Classifies a grey picture; normalisation and labels are in the file. */
class MainActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val view = TextView(this)
        setContentView(view)
        thread {
            val bitmap = Bitmap.createBitmap(WIDTH, HEIGHT, Bitmap.Config.ARGB_8888)
            // A camera's picture here; other sizes are scaled to the model's.
            bitmap.eraseColor(Color.GRAY)
            val text = classify(bitmap)
            runOnUiThread { view.text = text }
        }
    }

    private fun classify(bitmap: Bitmap): String {
        ImageClassifier.createFromFile(this, MODEL).use { classifier ->
            val result = classifier.classify(BitmapImageBuilder(bitmap).build())
            val scores = result.classificationResult().classifications()[0]
            return scores.categories().joinToString("\n") {
                "${it.index()} ${it.categoryName()}: ${it.score()}"
            }
        }
    }
}
